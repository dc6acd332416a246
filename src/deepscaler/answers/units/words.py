"""Units with their sizes, and the words that make another number of the one before them. Data only; see `parse`.

English, the metric words of the larger European languages, Chinese, Japanese and Korean: a unit that is not known here
counts as a noun, and nouns are told apart in lists only.
"""

from __future__ import annotations

import re
from fractions import Fraction

# Words = their size in the unit of the block, and so on.
_BLOCKS = {
    "length": """
        nm nanometer nanometers nanometre nanometres = 1/1000000000
        um μm micron microns micrometer micrometers = 1/1000000
        mm millimeter millimeters millimetre millimetres millimètre millimètres milímetro milímetros millimetro
        millimetri миллиметр миллиметра миллиметров мм 毫米 ミリメートル ミリ 밀리미터 = 1/1000
        cm centimeter centimeters centimetre centimetres zentimeter centimètre centimètres centímetro centímetros
        centimetro centimetri сантиметр сантиметра сантиметров см 厘米 公分 センチメートル センチ 센티미터 = 1/100
        dm decimeter decimeters decimetre decimetres dezimeter дециметр дециметров дм 分米 = 1/10
        m meter meters metre metres metern mètre mètres metro metros metri метр метра метров м 米 公尺 メートル 미터 = 1
        km kilometer kilometers kilometre kilometres kms kilomètre kilomètres kilómetro kilómetros quilômetro
        quilômetros chilometro chilometri километр километра километров км 千米 公里 キロメートル キロ 킬로미터 = 1000
        in inch inches zoll дюйм дюймов 英寸 インチ 인치 = 254/10000
        ft foot feet pieds фут футов 英尺 フィート 피트 = 3048/10000
        yd yard yards 码 ヤード 야드 = 9144/10000
        mi mile miles meilen millas milles миль 英里 マイル 마일 = 1609344/1000
        """,
    "time": """
        μs microsecond microseconds = 1/1000000
        ms millisecond milliseconds 毫秒 = 1/1000
        s sec secs second seconds sekunde sekunden seconde secondes segundo segundos secondo secondi секунда секунды
        секунд сек с 秒 秒钟 초 = 1
        min mins minute minutes minuten minuto minutos minuti минута минуты минут мин 分钟 分鐘 분 = 60
        h hr hrs hour hours stunde stunden heure heures hora horas час часа часов ч 小时 小時 時間 시간 = 3600
        day days tage tagen jour jours día días dia dias giorno giorni день дня дней 天 日 일 = 86400
        week weeks woche wochen semaine semaines semana semanas settimana settimane неделя недели недель 周 星期 週間
        주 = 604800
        """,
    "calendar": """
        month months monat monate monaten mois mes meses mese mesi месяц месяца месяцев 个月 個月 月 ヶ月 か月 개월 = 1
        yr yrs year years jahr jahre jahren année années año años ano anos anno anni год года лет 年 년 = 12
        """,
    "mass": """
        μg microgram micrograms = 1/1000000
        mg milligram milligrams миллиграмм мг 毫克 = 1/1000
        g gram grams gramme grammes gramm gramo gramos grama gramas grammo grammi грамм грамма граммов г 克 グラム
        그램 = 1
        kg kilogram kilograms kilos kilo kilogramm kilogramme kilogrammes kilogramo kilogramos quilogramas chilogrammi
        килограмм килограмма килограммов кг 千克 公斤 キログラム 킬로그램 = 1000
        """,
    "weight": """
        oz ounce ounces = 1
        lb lbs = 16
        """,
    "volume": """
        ml milliliter milliliters millilitre millilitres millilitre мл 毫升 ミリリットル 밀리리터 = 1/1000
        cc = 1/1000
        l liter liters litre litres litern litro litros litri литр литра литров л 升 公升 リットル 리터 = 1
        """,
    "money": """
        cent cents penny pennies 美分 = 1/100
        dollar dollars usd bucks dólar dólares доллар доллара долларов 美元 ドル 달러 = 1
        """,
    "energy": """
        j joule joules джоуль джоулей 焦耳 = 1
        kj kilojoule kilojoules = 1000
        cal calorie calories = 4184/1000
        kcal kilocalorie kilocalories = 4184
        kwh = 3600000
        """,
    "power": """
        w watt watts ватт 瓦 = 1
        kw kilowatt kilowatts кватт 千瓦 = 1000
        """,
    "force": """
        n newton newtons ньютон ньютонов 牛顿 = 1
        kn kilonewton kilonewtons = 1000
        """,
    "amount": """
        mmol millimole millimoles = 1/1000
        mol mols mole moles моль = 1
        """,
    "hz": """
        hz hertz = 1
        khz kilohertz = 1000
        mhz megahertz = 1000000
        ghz gigahertz = 1000000000
        """,
    "pa": """
        pa pascal pascals = 1
        kpa kilopascal kilopascals = 1000
        """,
    "data": """
        bit bits = 1
        byte bytes = 8
        """,
}
_ALONE = """
euro euros eur евро 欧元 ユーロ 유로
yen 日元 円
원
ruble rubles рубль рубля рублей
rupee rupees
yuan 元 块 人民币
gal gallon gallons
ton tons
tonne tonnes tonnen тонна тонны тонн 吨
v volt volts вольт
ev
k kelvin kelvins
a ampere amperes amp amps ампер
atm atmosphere atmospheres
hectare hectares га 公顷
acre acres
celsius centigrade
fahrenheit
turn turns revolution revolutions
arcminute arcminutes
arcsecond arcseconds
分
unit units
"""
_RADIANS = "rad rads radian radians radianten radianes radiani радиан радиана радианов 弧度 라디안"


_ENTRY = re.compile(r"([^=]+)=\s*(\S+)")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _units() -> dict[str, tuple[str, Fraction]]:
    table = {word: ("angle", Fraction(1)) for word in _RADIANS.split()}
    for dimension, block in _BLOCKS.items():
        for words, size in _ENTRY.findall(block):
            table |= {word: (dimension, Fraction(size)) for word in words.split()}
    for line in _ALONE.strip().splitlines():
        table |= {word: (line.split()[0], Fraction(1)) for word in line.split()}
    return table


UNITS = _units()
# In italics one letter is a variable; these are units also where somebody forgot to set them upright.
ITALIC_UNITS = frozenset(w for w in UNITS if len(w) > 2 and w != "min") | frozenset(
    ["cm", "km", "kg", "ft", "mm", "hr", "lb", "oz", "yd"]
)
DEGREES = _words("degree degrees deg grad grados graus gradi degrés градус градуса градусов 度 도")
PERCENT = _words("percent percents percentage pct prozent процент процента процентов 퍼센트")
PER = frozenset(["per", "/", "pro", "par", "por", "в", "每", "毎", "당"])
SQUARE = {
    "square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3, "제곱": 2, "세제곱": 3, "квадратных": 2, "кв": 2,
    "кубических": 3, "куб": 3,
}  # fmt: skip
RAISED = {
    "squared": 2, "cubed": 3, "carrés": 2, "cubes": 3, "cuadrados": 2, "cúbicos": 3, "quadrati": 2, "quadrados": 2,
}  # fmt: skip
# One word for several: tokens of a unit are read from the right side.
SPELLED = {
    "mph": "mile / hour", "kph": "km / hour", "kmph": "km / hour", "kmh": "km / hour",
    "quadratmeter": "square m", "qm": "square m", "quadratzentimeter": "square cm", "quadratkilometer": "square km",
    "kubikmeter": "cubic m", "kubikzentimeter": "cubic cm",
}  # fmt: skip
TEMPERATURES = {"C": "celsius", "F": "fahrenheit", "K": "k"}

_MAGNITUDES = """
1/1000000 millionth millionths
1/1000 thousandth thousandths
1/100 hundredth hundredths
1/10 tenth tenths
1/9 ninth ninths
1/8 eighth eighths
1/7 seventh sevenths
1/6 sixth sixths
1/5 fifth fifths
1/4 fourth fourths
1/3 third thirds
1/2 half halves
10 ten tens 十 십
12 dozen dozens
20 score
100 hundred hundreds 百 백
144 gross
1000 thousand thousands tausend mille mil тысяча тысячи тысяч тыс 千 천
10000 万 萬 만
100000 lakh lakhs
1000000 million millions millionen millón millones milhão milhões milione milioni миллион миллиона миллионов млн mln
10000000 crore crores
100000000 亿 億 억
1000000000 billion billions bn milliarde milliarden milliard milliards miliardo miliardi миллиард миллиарда миллиардов
1000000000 млрд
1000000000000 trillion trillions 兆 조
"""


def _magnitudes() -> dict[str, Fraction]:
    lines = [line.split() for line in _MAGNITUDES.strip().splitlines()]
    return {word: Fraction(size) for size, *words in lines for word in words}


MAGNITUDES = _magnitudes()
# Words behind a number that make another one of it, which is not worked out: 5 squared, 5 degrees below zero.
ALTERING = _words(
    "below under over beneath factorial binary octal hexadecimal hex decimal mod modulo choose halved doubled tripled "
    "quadrupled twice"
)
